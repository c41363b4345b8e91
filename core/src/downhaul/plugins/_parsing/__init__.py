"""What servers and lists say, read: header fields, mirror lists, metalinks."""
