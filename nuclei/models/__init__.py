"""Networks and what they answer."""
