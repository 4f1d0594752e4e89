"""What a browser sees of the companion: record -> views and charts -> templates -> routes."""
