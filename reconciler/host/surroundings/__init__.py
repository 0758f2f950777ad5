"""Looking for what else on this host may take frames off their way."""
