"""The Prometheus endpoint: what the tables say of every pipeline, as metrics. Read, never pushed: a flow that lived for
seconds has left its rows, and they are counted whether or not anyone was looking when it ran."""
