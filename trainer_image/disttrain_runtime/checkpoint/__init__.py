"""Checkpoints that can be trusted: no pickle, every byte under a digest, committed by one rename, fenced by incarnation.

<job dir>/fence.json                    who may commit: (job uid, incarnation)
<job dir>/checkpoints/step-00000040/    manifest.json, structure.json, model.safetensors, optimizer.safetensors
<job dir>/checkpoints/.writing-…        not committed: never read, removed by the next owner
<job dir>/checkpoints/.removing-…       retired: never read, being removed
"""
