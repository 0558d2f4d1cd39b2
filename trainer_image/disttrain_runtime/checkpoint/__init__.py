"""Checkpoints that can be trusted: no pickle, every byte under a digest, committed by one rename, fenced by incarnation.

<job dir>/fence.json                    who may commit: (job uid, incarnation), and the mark of the process that claimed it
<job dir>/checkpoints/step-00000040/    manifest.json, structure.json, model.safetensors, optimizer.safetensors
<job dir>/checkpoints/.writing-…        not committed: never read, removed before the next owner's first save
<job dir>/checkpoints/.removing-…       retired: never read, being removed
"""
