"""What a user would take instead of product_sync: two programs and two scripts, each run as a process of its own."""
