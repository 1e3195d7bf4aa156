"""Objects followed through videos and streams: ids, counts on lines and in zones, events."""
