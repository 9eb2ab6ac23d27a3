"""Which bytes of a new checkpoint are those of an earlier one, and so need not be written again.

sharing    Sharing: how one save shares with what was before it; InBucket: the same in a bucket
shards     ShardSharing: how the shard of a rank does
past       Past: what that is
comparing  what of the new data is the same
looking    what files say of their large records, and where they have them
decide     which copies of a record may be shared, so that no bad block loses both
"""
