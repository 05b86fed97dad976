"""Pages for people: templates, styles and scripts; nothing is loaded from elsewhere."""
