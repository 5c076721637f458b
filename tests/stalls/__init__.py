"""What everything that one caller asks for costs the appends of others (rule 12)."""
