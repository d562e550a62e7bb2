"""Reports: one run, or several beside each other, as a page that needs nothing but itself."""
