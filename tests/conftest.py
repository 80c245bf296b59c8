import os

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # threads that wait should sleep: the machine may be shared
