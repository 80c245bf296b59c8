"""Plain versions of the losses for losses.py: the equations in torch under autograd, a clip or a pair at a time without padding, as public code has them."""
import torch
import torch.nn.functional as F

from lrprop.losses.sal import draw_triplets
from lrprop.losses.tcc import ordered_pairs
from lrprop.losses.vava import vava
from lrprop.propagation import cross_pairs
from peers import diagonals_soft, tslearn_path


# Each with the defaults of the loss; `loss` is the module where it owns weights (SPEC §A and §B).
def clips(embs, steps, mask) -> list: # (z (n, d), s (n,)) a clip, without padding
    "The valid frames of every clip."
    return [(z[m], s[m]) for z, s, m in zip(*(x.flatten(0, 1) for x in (embs, steps, mask)))]


def kl(at, s, x, y):
    "Of frames x at times `at` with frames y at times s: the sum of eq. 3 over the anchors."
    p = (-(at[:, None] - s).to(x)**2/20).log_softmax(1)
    return F.kl_div(((F.normalize(x, dim=1) @ F.normalize(y, dim=1).T)/.1).log_softmax(1), p, reduction='sum', log_target=True)


def sal_plain(loss, embs, steps, lens, mask):
    z, (clip, slots, label) = embs.flatten(0, 1), draw_triplets(mask.flatten(0, 1))
    return torch.stack([F.cross_entropy(loss.head(z[i, s].flatten()), y) for i, s, y in zip(clip, slots, label)]).mean()


def tcn_plain(loss, embs, steps, lens, mask):
    values = []
    for z, _ in clips(embs, steps, mask):
        a, p = z[::2], z[1::2]
        values.append(F.cross_entropy(a @ p.T, torch.arange(len(a), device=z.device)) + .002/4*(a.square().sum(1) + p.square().sum(1)).mean())
    return torch.stack(values).mean()


def tcc_plain(loss, embs, steps, lens, mask):
    all_clips, values = clips(embs, steps, mask), []
    def nearest(x, y): return (-torch.cdist(x, y).square()/(.1*x.shape[1])).softmax(1)
    for i, j in zip(*(p.tolist() for p in ordered_pairs(*embs.shape[:2]))):
        (x, s), (y, _) = all_clips[i], all_clips[j]
        t, beta = s.to(x)/lens[i//embs.shape[1]], nearest(nearest(x, y) @ y, x)
        mean = beta @ t
        var = (beta*(t - mean[:, None])**2).sum(1).clamp(min=1e-8)
        values.append((t - mean)**2/var + .001*var.log())
    return torch.cat(values).mean()


def lav_plain(loss, embs, steps, lens, mask):
    all_clips, K, values = clips(embs, steps, mask), embs.shape[1], []
    def idm(z, s, L):
        t, D = s.double()/L, torch.cdist(z, z).square() # in double: rounding decides where a gap is the window
        gap = (t[:, None] - t).abs()
        return torch.where(gap > t.new_tensor(10.)/L, (1 + gap**2).to(D)*(2 - D).clamp(min=0), D).sum()
    for i, j in zip(*(p.tolist() for p in cross_pairs(len(embs), K))):
        (x, s), (y, t) = all_clips[i], all_clips[j]
        inside = idm(x, s, lens[i//K]) + idm(y, t, lens[j//K])
        values.append((diagonals_soft(torch.cdist(x, y).square()[None], .1)[0] + .5*inside)/((len(x) + len(y))/2))
    return torch.stack(values).mean()


def vava_plain(loss, embs, steps, lens, mask):
    "Not typed anew: ours, a pair of clips at a time."
    (rows, columns), K = cross_pairs(*embs.shape[:2]), embs.shape[1]
    pair = lambda x, ij: x.flatten(0, 1)[list(ij)][:, None]
    return torch.stack([vava(pair(embs, ij), pair(steps, ij), lens[[k//K for k in ij]], pair(mask, ij)) for ij in zip(rows.tolist(), columns.tolist())]).mean()


def scl_plain(loss, embs, steps, lens, mask, reach=torch.inf):
    all_clips, K, values, n = clips(embs, steps, mask), embs.shape[1], [], 0
    for i, (x, s) in enumerate(all_clips):
        for j in range(i//K*K, i//K*K + K):
            if i == j: continue
            y, t = all_clips[j]
            near = (s[:, None] - t).abs().amin(1) <= reach # the anchors that count
            values.append(kl(s[near], t, x[near], y))
            n += int(near.sum())
    return sum(values)/max(n, 1)


def lrprop_plain(loss, embs, steps, lens, mask, lambda1, lambda2, pairs='all', reach=torch.inf):
    all_clips, prop, sdtw, n = clips(embs, steps, mask), [], [], 0
    for i, j in zip(*(p.tolist() for p in cross_pairs(*embs.shape[:2], pairs))):
        (x, s), (y, t) = all_clips[i], all_clips[j]
        D = torch.cdist(x, y)
        path = tslearn_path(D.detach().cpu())
        first_x, first_y = ({(a, b)[k]: (b, a)[k] for a, b in reversed(path)} for k in (1, 0)) # of each frame of y, the first it meets in x; and so on
        prop += [kl(s, s[[first_x[k] for k in range(len(y))]], x, y), kl(t, t[[first_y[k] for k in range(len(x))]], y, x)]
        n += len(x) + len(y)
        sdtw.append(diagonals_soft(D[None], .1)[0]/(len(x) + len(y)))
    return scl_plain(loss, embs, steps, lens, mask, reach) + lambda1*sum(prop)/n + lambda2*torch.stack(sdtw).mean()


def lrprop_crop_plain(*args, **weights): return lrprop_plain(*args, **weights, pairs='diagonal', reach=9.)


def smooth_table(cost):
    "GTA's recursion in plain torch, an anti-diagonal a step."
    N, M = cost.shape
    D = F.pad(cost, (0, N), value=1e9).flatten()[:N*(M + N - 1)].view(N, -1) # row i moved right by i
    edge, last, kept = D.new_full((1,), 1e9), D.new_full((N + 1,), 1e9), []
    before = torch.cat([torch.zeros_like(edge), last[1:]])
    for d in D.unbind(1):
        three = torch.stack([before[:-1], last[:-1], last[1:]])
        kept.append(d + ((-three/.1).softmax(0)*three).sum(0))
        before, last = last, torch.cat([edge, kept[-1]])
    rows = torch.arange(N, device=cost.device)[:, None]
    return torch.stack(kept)[rows + torch.arange(M, device=cost.device), rows]


def gta_plain(loss, embs, steps, lens, mask):
    all_clips, costs, entropies = clips(embs, steps, mask), [], []
    def table(x, y): return smooth_table(-((F.normalize(y, dim=1) @ F.normalize(x, dim=1).T)/.1).log_softmax(1).T)
    for i, j in zip(*(p.tolist() for p in cross_pairs(*embs.shape[:2]))):
        (x, _), (y, _) = all_clips[i], all_clips[j]
        there, back = table(x, y), table(y, x)
        costs.append(there[-1, -1] + back[-1, -1])
        arrival = ((-there).softmax(0) @ (-back).softmax(0)).T
        entropies.append(F.cross_entropy(arrival, torch.arange(len(x), device=x.device), label_smoothing=.1, reduction='none'))
    return .1*torch.stack(costs).mean() + torch.cat(entropies).mean()
