"""Who may ask the web views, and how to ask them."""
