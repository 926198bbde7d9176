"""Where weights come from, and what lies beside them."""
