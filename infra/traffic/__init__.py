"""The traffic record beyond the gateway's disk: shipped as Parquet, read back, answered again, reconciled."""
