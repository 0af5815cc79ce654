"""Truth tables: 3 namespaces x 3 pods on 2 nodes, all 81 pairs on TCP, UDP and SCTP 80 and 81, per policy of
tests/data/truth, with the oracle's expectations, as scenario files for `kilim lab run`."""
