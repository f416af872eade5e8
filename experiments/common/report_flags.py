"""The flags of programs that make a page of finished work directories."""

from absl import flags

WORKDIRS = flags.DEFINE_list("workdirs", None, "work directories of the experiments on the page")
OUTPUT = flags.DEFINE_string("output", None, "where the report goes")
