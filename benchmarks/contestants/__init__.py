"""One file for each contestant. It has a function for each workload it takes part in, or `each_item` for all that treat items."""
