from typing import NamedTuple

import torch
from torch import Tensor


class Broja(NamedTuple):
    r"""The solution of :func:`broja`, one for each table.

    Args:
        information (torch.Tensor): The least information :math:`I_Q(X_1, X_2; Y)` in nats.
        gap (torch.Tensor): What it may be too large by, at most, in nats.
        joint (torch.Tensor): The minimising joint distributions :math:`Q`.
    """

    information: Tensor
    gap: Tensor
    joint: Tensor


def broja(tables: Tensor) -> Broja:
    r"""Minimises the information over all joint distributions with the same pairwise marginals of
    each source and the target."""
    q, tau, rn, _, _ = _solve(tables, tol=1e-8, iters=150, wt=0.0)
    log = lambda p: torch.where(p > 0, p, 1.0).log()
    ratio = log(q) - log(q.sum(3, keepdim=True)) - log(tables.sum((1, 2), keepdim=True))
    return Broja((q * ratio).sum((1, 2, 3)), tau + 10 * rn, q)


def _solve(P, tol=1e-9, iters=100, verbose=False, wt=1.0, mu_fac=None, frac=.95):
    P=P.double(); B,n1,n2,ny=P.shape
    a=P.sum(2); b=P.sum(1); py=a.sum(1)
    mask=(a[:,:,None]>0)&(b[:,None]>0); cell=mask.any(-1)
    q0=torch.where(mask, a[:,:,None]*b[:,None]/torch.where(py>0,py,1)[:,None,None],0.)
    dead=torch.cat([a==0,b==0],1).flatten(1)
    first=(b>0).double().argmax(1)
    idx=(n1+first)*ny+torch.arange(ny)
    dead=dead.scatter(1,idx,True)
    NEG=-torch.inf
    lam=torch.where(a>0,(a/torch.where(py>0,py,1)[:,None]),1.).log()-1
    mu=torch.where(b>0,b,1.).log()
    i1=torch.arange(n1); i2=torch.arange(n2)
    def lse(l,u):
        e=(l[:,:,None]+u[:,None]).masked_fill(~mask,NEG)
        f=e.logsumexp(-1); 
        f=torch.where(cell,f,-1.)
        return f,(e-f[...,None]).exp()
    m=q0.sum(-1)
    w=torch.where(cell,m**wt,0.); w=w/w.sum((1,2),keepdim=True)
    w1=torch.where(cell,w,1.)
    f,r=lse(lam,mu)
    ab=torch.cat([a,b],1)
    def resid(m,r):
        q=m[...,None]*r
        return torch.cat([a-q.sum(2),b-q.sum(1)],1)
    def ev(x): return x[:,None,None]
    def maxstep(x,dx):
        return torch.where(dx<0,-x/torch.where(dx<0,dx,-1.),torch.inf).amin((1,2))
    hist=[]
    for it in range(iters):
        s=-f; q=m[...,None]*r
        tau=(m*s*cell).sum((1,2))   # surrogate gap
        rd=resid(m,r); rn=rd.abs().sum((1,2))
        hist.append(tau+rn)
        if verbose: print(it,'tau',tau.max().item(),'rd',rn.max().item(), 'cent',((m*s/w1)/ev(tau))[cell].min().item() )
        if bool(((tau<tol)&(rn<tol)).all()): break
        coef=m*(1/s-1)
        Kinv=torch.diag_embed(q)+coef[...,None,None]*r[...,:,None]*r[...,None,:]
        S=torch.zeros(B,n1+n2,ny,n1+n2,ny).double()
        S[:,i1,:,i1,:]=Kinv.sum(2).transpose(0,1)
        S[:,n1+i2,:,n1+i2,:]=Kinv.sum(1).transpose(0,1)
        S[:,:n1,:,n1:,:]=Kinv.permute(0,1,3,2,4)
        S[:,n1:,:,:n1,:]=Kinv.permute(0,2,4,1,3)
        S=S.flatten(3).flatten(1,2)
        S=S.masked_fill(dead[:,:,None]|dead[:,None],0.)
        d=S.diagonal(dim1=1,dim2=2); d=torch.where(dead|(d<=0),1.,d).rsqrt()
        S=S*d[:,:,None]*d[:,None]
        S.diagonal(dim1=1,dim2=2).copy_(torch.where(dead,1.,S.diagonal(dim1=1,dim2=2)*(1+1e-14)))
        L,info=torch.linalg.cholesky_ex(S)
        if verbose and info.any(): print('info',info.sum())
        def direction(c,rd):  # c: target for m s (per cell)
            # dm = (c - m s + m r.dth)/s ; sum (m Hf dth + dm r) = rd
            t=(c/s-m)*cell
            v=t[...,None]*r
            rhs=rd-torch.cat([v.sum(2),v.sum(1)],1)
            rhs=torch.where(dead,0.,rhs.flatten(1))*d
            th=(torch.cholesky_solve(rhs[...,None],L)[...,0]*d).view(B,n1+n2,ny)
            l,u=th[:,:n1],th[:,n1:]
            rdth=(r*(l[:,:,None]+u[:,None])).sum(-1)
            dm=t+m*rdth/s*cell
            return l,u,dm,rdth
        l,u,dm,rdth=direction(torch.zeros_like(m),rd)
        # predictor
        al=torch.minimum(maxstep(m,dm),maxstep(s,-rdth)).clamp(max=1)
        osc=(l[:,:,None]+u[:,None]).abs().masked_fill(~mask,0).amax((1,2,3))
        tauaff=((m+ev(al)*dm)*(s-ev(al)*rdth)*cell).sum((1,2))
        sig=((tauaff/tau).clamp(0,1))**2
        sig=sig.clamp(min=1e-3)
        c=(ev(sig*tau)*w + dm*rdth*cell*ev(al*al))  # Mehrotra: m s + s dm - m rdth - dm rdth = target
        l,u,dm,rdth=direction(c,rd)
        ap=(frac*maxstep(m,dm)).clamp(max=1)
        osc=(l[:,:,None]+u[:,None]).abs().masked_fill(~mask,0).amax((1,2,3))
        al=torch.minimum(ap, 1.0/osc.clamp(min=1e-300)*4).clamp(max=1)
        # backtrack on f<0 & residual
        old=rn; ok=torch.zeros(B,dtype=torch.bool)
        for bt in range(30):
            l2=lam+ev(al)*l; u2=mu+ev(al)*u; m2=m+ev(al)*dm
            f2,r2=lse(l2,u2)
            cen=(m2*(-f2)/w1)
            t2=(m2*(-f2)*cell).sum((1,2))
            rn2=resid(m2,r2).abs().sum((1,2))
            ok=((-f2)>(1-frac)*.5*s).flatten(1).all(1) & ((rn2<=(1-.01*al)*rn)|(rn2<=.5*t2)|(rn2<1e-13)) & ((cen>1e-3*ev(t2))|~cell).flatten(1).all(1)
            if bool(ok.all()): break
            al=torch.where(ok,al,al*.6)
        if verbose: print('    al',al.min().item(),'sig',sig.max().item(),'bt',bt)
        lam,mu,m,f,r=l2,u2,m2,f2,r2
    return m[...,None]*r, tau, rn, it, torch.stack(hist)
