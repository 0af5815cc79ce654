"""`make policy-cases`: every case of ../shared/policy-cases and every truth table, on the tables and as packets."""
