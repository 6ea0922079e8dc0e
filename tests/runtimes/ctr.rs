//! `ctr run --cni`: ids like `default-c1`, namespaces like `/proc/PID/ns/net`.
