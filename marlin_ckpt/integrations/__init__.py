"""Adapters: the guarantees of marlin-ckpt in the loops of other packages, which are imported only here.

Each module needs the package of its name: `pip install 'marlin-ckpt[lightning]'`, and so on.

accelerate            protect: the folders of `save_state` and `load_state` of Accelerate
ignite                MarlinSaver: the save handler of a `Checkpoint` of PyTorch-Ignite
lightning             MarlinCheckpointIO: the plugin of the Trainer of Lightning, and of Fabric
lightning_private     what that replaces of Lightning's private parts
transformers          protect: the folders `checkpoint-N` of a Trainer of Transformers
transformers_private  what that replaces of the private parts of Transformers
agreement             what one of several processes finds, or fails with, for all of them
"""
