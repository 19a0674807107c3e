"""What profile ``local`` knows instead of a chain."""
