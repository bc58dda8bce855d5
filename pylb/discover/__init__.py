"""What an answer about a backend's servers says, and what is done with it.

Pure: whoever asked hands the answer in, and the time. It knows addresses as the configuration writes them; it
knows neither processes nor how an answer was got (`pylb.control.sources` asks).
"""
