"""Which bytes of a new checkpoint are those of an earlier one, and so need not be written again.

decide    which earlier copies a record may share, so that no bad block loses more than one of two copies
"""
