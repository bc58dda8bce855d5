"""What benchmarks have in common: peers, origin servers, load, processes, and how results are written.

Each configuration, each tool's output and each way to take a figure stands here once. A benchmark imports the
rig; the rig imports no benchmark.
"""
