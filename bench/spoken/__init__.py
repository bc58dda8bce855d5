"""Odd requests and odd responses: what pylb, HAProxy and nginx make of each."""
