"""The dialects that validators speak: what a request claims, whether it is true, and how a reply is written."""
