"""The subnets, a folder each: what is asked, how it is answered, when an answer is valid, and how it is scored."""
