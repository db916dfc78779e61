"""The cart service's table in PostgreSQL: reflecting, reading, locking, writing."""
