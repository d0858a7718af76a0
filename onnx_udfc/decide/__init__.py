"""From the request to channel counts and bits."""
