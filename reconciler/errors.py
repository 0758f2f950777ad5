"""The errors that a caller may see. Their type says whether trying again can help."""


class ReconcilerError(Exception):
    """Base of all errors raised on purpose; its text is one line for a person."""

    retry_helps = False

    @property
    def explained(self) -> str:
        """The text for a terminal; more than its one line where there is more to see."""
        return str(self)


class TransientError(ReconcilerError):
    """The world was in motion (an interrupted dump, a lock held by another); trying again can help."""

    retry_helps = True


class UnreachedError(TransientError):
    """Whoever was to act could not be asked: nothing was done, and nothing will be."""


class HostError(ReconcilerError):
    """The host refuses: a permission, a missing file, a kernel without a feature."""


class RequestError(ReconcilerError):
    """A request that cannot be fulfilled as it stands; nothing was done."""
