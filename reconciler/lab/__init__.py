"""Two clients, a host and a VM in network namespaces: for the demo, the tests and the benchmarks."""
