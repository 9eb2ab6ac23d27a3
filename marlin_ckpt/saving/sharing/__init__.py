"""Which bytes of a new checkpoint are those of an earlier one, and so need not be written again.

sharing   Past: what this process wrote; Sharing: how one save shares with it
looking   what files say of their large records, and where they have them
decide    which copies of a record may be shared, so that no bad block loses both
"""
