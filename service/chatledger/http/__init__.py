"""The HTTP surface: middleware, parsing of requests, presentation of answers, routes."""
