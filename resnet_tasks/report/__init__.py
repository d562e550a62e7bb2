"""Reports of one run, or of several runs side by side, as self-contained HTML pages."""
