"""Studies of locking: the paper's experiments and the questions it left open. Beside the package, not in it.

python -m studies list
python -m studies quality --quick
python -m studies all --model GSAI-ML/LLaDA-8B-Instruct --out results
"""
