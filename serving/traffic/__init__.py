"""The traffic record: written, kept, and read again."""
