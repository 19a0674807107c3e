"""Alembic's scripts for the ledger; `Ledger.migrate` runs them."""
