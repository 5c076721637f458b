"""What one caller may do: use cases, bound to the tenant and the user of the request."""
