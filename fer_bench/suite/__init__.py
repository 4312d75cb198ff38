"""The order of the stages and who runs them: the only package that sees both halves, training and records.

``checks`` says which members cannot work, ``plan`` which runs a suite asks for and what is done already, ``members``
trains and scores one run, ``votes`` combines records, ``estimate`` guesses time and memory, ``schedule`` hands out runs
within a ``budget`` of time, ``parallel`` has several at once, ``apply`` predicts with finished runs, ``progress`` shows
what goes on, ``environment`` notes where, ``outcome`` is what is left, and ``stages`` is the order of it all. Nothing
is imported here: ``votes`` works without torch.
"""
