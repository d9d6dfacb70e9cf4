"""What a person reads of a sweep, from files alone: table, reasons, report. Standard library only."""
