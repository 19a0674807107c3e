"""What happens to models over time, one file a flow."""
