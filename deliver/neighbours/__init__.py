"""Worker processes that hand accepted mail to each other: one keeps the sessions with a destination."""
