"""From whatever people have to arrays."""
