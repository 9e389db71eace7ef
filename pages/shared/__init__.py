"""What pages share. A folder of its own: each file right in `pages/` is a page."""
