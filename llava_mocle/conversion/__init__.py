"""Other systems' checkpoints -> folders of transformers and PEFT. Nothing in a file is executed."""
