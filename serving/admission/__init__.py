"""Who is served next, and who is told to come back."""
