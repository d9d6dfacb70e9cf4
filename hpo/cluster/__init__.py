"""An attempt: Ray's head and workers inside an allocation, the driver, signals, and an end without remains."""
