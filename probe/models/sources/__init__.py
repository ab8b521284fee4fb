"""Where checkpoints come from: the hub, folders, fairseq's files, torchaudio's bundles."""
