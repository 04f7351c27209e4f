"""Any bytes and any order: what no list of cases would think of. No broker."""
