"""Who a caller is: API keys, user tokens, and how many requests each may send."""
