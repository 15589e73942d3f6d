/*
 * The hand-off without force, as a model for spin: every order of messages, losses, repetitions, crashes and
 * wishes of a few sites is tried. The names of the invariants are those of `HeadRecord`'s documentation.
 *
 * A record is what `HeadRecord` stores, without sources, retentions and divergences. A message that was sent stays
 * deliverable for ever: so it may be lost, delayed, overtaken and repeated, and sending it again is nothing new.
 * A crash loses what is not in the record: results of actions that are not applied yet.
 *
 * -DSITES, -DWISHES (takeovers), -DABORTS, -DWRITES set the size; -DBUG_… plants an error that must be
 * found; -DNEVER=KIND claims that this kind of message never arrives.
 */
#ifndef SITES
#define SITES 2
#endif
#ifndef WISHES
#define WISHES 3
#endif
#ifndef ABORTS
#define ABORTS 1
#endif
#ifndef WRITES
#define WRITES 2
#endif
/* Epochs of the model: a record that needs a higher one stays as it is. */
#define HIGHEST 6
#define PAIRS(M, by) \
    M(by,1,2) M(by,1,3) M(by,2,3) M(by,1,4) M(by,2,4) M(by,3,4) M(by,1,5) M(by,2,5) M(by,3,5) M(by,4,5) \
    M(by,1,6) M(by,2,6) M(by,3,6) M(by,4,6) M(by,5,6) M(by,1,7) M(by,2,7) M(by,3,7) M(by,4,7) M(by,5,7) M(by,6,7)
#define EPOCHS(M, by) M(by,1) M(by,2) M(by,3) M(by,4) M(by,5) M(by,6)
#if SITES == 2
#define PEERS(X, M) X(M,0) X(M,1)
#else
#define PEERS(X, M) X(M,0) X(M,1) X(M,2)
#endif

#define FOLLOWING 1
#define ACQUIRING 2
#define RECEIVING 3
#define DECLINING 4
#define OWNING 5
#define SEALING 6
#define SEALED 7
#define RECLAIMING 8
#define RETIRED 9

/* What is durable. `epoch` and `owner` are the known reign; `other` and `heir` what is wanted, promised or declined. */
typedef Record {
    byte role; byte owner; byte epoch; byte other; byte heir; byte final; byte spent; byte content; bit held
}
Record r[SITES];
/* What a crash loses: the results of reading and fetching the tail, with the epoch that they are for. */
typedef Memory { byte tailFor; byte tail; byte fetchedFor; byte fetched }
Memory memory[SITES];

/* Messages that were ever sent, as bits; first index: to, second: by. */
typedef Sent { int by[SITES] }
typedef SentFinal { int final[3] }
typedef SentGrants { SentFinal by[SITES] }
Sent sealRequests[SITES], declineRequests[SITES], declines[SITES], announcements[SITES], spents[SITES], refusals[SITES];
SentGrants grants[SITES];

/* What only the model knows. */
byte acknowledged;
byte wishes = WISHES, aborts = ABORTS;
byte begun, givenUp;

#define pair(a, w) (1 << (((w) - 1) * ((w) - 2) / 2 + (a) - 1))
#define known(s) (r[s].epoch)
#define isOwners(s) (r[s].role == OWNING || r[s].role == SEALING || r[s].role == SEALED || r[s].role == RECLAIMING)
#define raise(s, e) if :: (r[s].spent < (e)) -> r[s].spent = (e) :: else fi

hidden byte oneWriter, tailFirst, twiceChangesNothing, takenBackAfterDecline, noEpochTwice, knowledgeGrows;
hidden byte overruledByForceOnly, noContradiction;
hidden byte oldEpoch;
hidden int before, after;

/* ---- what a site sends ---- */

#define announce(s, to, o, e) \
    if :: (to != s) -> announcements[to].by[o] = announcements[to].by[o] | (1 << (e)) :: else fi
#define announceKnown(s, to) announce(s, to, r[s].owner, r[s].epoch)
#define grantSeal(s) \
    grants[r[s].heir].by[s].final[r[s].final] = grants[r[s].heir].by[s].final[r[s].final] | pair(r[s].epoch, r[s].other)
#define tellDeclined(s, to, w) declines[to].by[s] = declines[to].by[s] | (1 << (w))

/* ---- what a site stores ---- */

#define acquire(s, o, e) \
    raise(s, e); \
    r[s].owner = o; r[s].epoch = e; r[s].final = 0; r[s].heir = s; \
    if \
    :: (r[s].spent < HIGHEST) -> \
        r[s].role = ACQUIRING; r[s].other = r[s].spent + 1; \
        sealRequests[o].by[s] = sealRequests[o].by[s] | pair(e, r[s].other) \
    :: else -> r[s].role = FOLLOWING; r[s].other = 0 \
    fi
#define follow(s, o, e) \
    r[s].role = FOLLOWING; r[s].owner = o; r[s].epoch = e; r[s].other = 0; r[s].final = 0; r[s].heir = s
inline begin(s, e) {
    /* A reign begins once, and never after it was given up. */
    noEpochTwice = !((begun | givenUp) & (1 << (e)));
    assert(noEpochTwice);
    begun = begun | (1 << (e));
    r[s].role = OWNING; r[s].owner = s; r[s].epoch = e; r[s].spent = e;
    r[s].other = 0; r[s].final = 0; r[s].heir = s; r[s].held = 0
}
inline resume(s) {
    /* The heir has durably spent the promised epoch, or was never answered, and has not begun. */
    takenBackAfterDecline = !(begun & (1 << r[s].other)) && (r[s].role == SEALING || r[r[s].heir].spent >= r[s].other);
    assert(takenBackAfterDecline);
    if
    :: (r[s].spent < HIGHEST) -> givenUp = givenUp | (1 << r[s].other); begin(s, r[s].spent + 1)
    :: else
    fi
}
inline learn(s, o, e) {
    if
    :: (e < known(s)) -> if :: (r[s].role == OWNING) -> announceKnown(s, o) :: else fi
    :: else ->
        noContradiction = (e > known(s) || o == r[s].owner) && (o != s || e <= known(s));
        assert(noContradiction);
        if
        :: (r[s].role == FOLLOWING) -> follow(s, o, e); raise(s, e)
        :: (r[s].role == DECLINING) -> follow(s, o, e); raise(s, e)
        :: (r[s].role == RETIRED) -> r[s].owner = o; r[s].epoch = e; raise(s, e)
        :: (r[s].role == ACQUIRING) ->
            if :: (e > known(s)) -> raise(s, r[s].other); acquire(s, o, e) :: else fi
        :: (r[s].role == RECEIVING || r[s].role == OWNING || r[s].role == SEALING) ->
            overruledByForceOnly = (e <= known(s));
            assert(overruledByForceOnly)
        :: (r[s].role == SEALED || r[s].role == RECLAIMING) ->
            if
            :: (o == s)
            :: else ->
                noContradiction = (e > r[s].other || (e == r[s].other && o == r[s].heir));
                assert(noContradiction);
                if
                :: (r[s].role == RECLAIMING) -> acquire(s, o, e)
                :: else -> raise(s, e); r[s].role = RETIRED; r[s].owner = o; r[s].epoch = e; r[s].other = 0;
                    r[s].final = 0; r[s].heir = s
                fi
            fi
        fi
    fi
}

/* ---- messages ---- */

inline sealRequested(s, from, a, w) {
    if
    :: (r[s].role == OWNING) ->
        overruledByForceOnly = (a <= known(s));
        assert(overruledByForceOnly);
        if
        :: (a < known(s)) -> announceKnown(s, from)
        :: (a == known(s) && w > r[s].spent && r[s].held) -> refusals[from].by[s] = refusals[from].by[s] | (1 << w)
        :: (a == known(s) && w <= r[s].spent) -> spents[from].by[s] = spents[from].by[s] | pair(w, r[s].spent + 1)
        :: else -> r[s].spent = w; r[s].role = SEALING; r[s].heir = from; r[s].other = w
        fi
    :: (r[s].role == SEALING || r[s].role == SEALED || r[s].role == RECLAIMING) ->
        if
        :: (r[s].heir == from && r[s].other == w) -> if :: (r[s].role != SEALING) -> grantSeal(s) :: else fi
#ifdef BUG_SEAL_TWICE
        :: (r[s].role == SEALED && r[s].heir != from) -> raise(s, w); r[s].heir = from; r[s].other = w; grantSeal(s)
#endif
        :: else -> refusals[from].by[s] = refusals[from].by[s] | (1 << w)
        fi
    :: else -> announceKnown(s, from)
    fi
}
inline answer(s, to, a, w) {
    if
    :: (known(s) >= w) -> announceKnown(s, to)
    :: else ->
        overruledByForceOnly = !((r[s].role == OWNING || r[s].role == SEALING) && a >= known(s));
        assert(overruledByForceOnly);
        noContradiction = !(r[s].role == RECEIVING && r[s].other <= w);
        assert(noContradiction);
#ifndef BUG_DECLINE_NOT_DURABLE
        raise(s, w);
#endif
        if :: (r[s].role == ACQUIRING && r[s].other <= w) -> acquire(s, r[s].owner, r[s].epoch) :: else fi;
        tellDeclined(s, to, w)
    fi
}
inline sealGranted(s, from, a, w, f) {
    if
    :: (r[s].role == ACQUIRING && r[s].other == w) ->
        noContradiction = (r[s].owner == from && r[s].epoch == a);
        assert(noContradiction);
        r[s].role = RECEIVING; r[s].final = f
    :: (r[s].role == RECEIVING && r[s].other == w) ->
        noContradiction = (r[s].owner == from && r[s].epoch == a && r[s].final == f);
        assert(noContradiction)
    :: else -> answer(s, from, a, w)
    fi
}
inline declineRequested(s, from, a, w) {
    if
    :: ((r[s].role == ACQUIRING || r[s].role == RECEIVING) && r[s].other <= w && r[s].epoch <= a) ->
        follow(s, r[s].owner, r[s].epoch)
    :: else
    fi;
    answer(s, from, a, w)
}
inline declined(s, from, w) {
    if
    :: ((r[s].role == SEALING || r[s].role == SEALED || r[s].role == RECLAIMING) && r[s].heir == from) ->
        if
        :: (r[s].other == w) -> resume(s); announceKnown(s, from)
        :: (r[s].other != w && r[s].role != SEALING) -> grantSeal(s)
        :: else
        fi
    :: (r[s].role == OWNING) -> raise(s, w); announceKnown(s, from)
    :: (r[s].role != OWNING && !isOwners(s)) -> announceKnown(s, from)
    :: else
    fi
}
inline spentRefused(s, from, w, through) {
    if
    :: (r[s].role == ACQUIRING && r[s].owner == from && r[s].other == w) ->
        raise(s, through); acquire(s, r[s].owner, r[s].epoch)
    :: else
    fi
}
inline refused(s, from, w) {
    if
    :: (r[s].role == ACQUIRING && r[s].owner == from && r[s].other == w) -> follow(s, r[s].owner, r[s].epoch)
    :: else
    fi
}

#define SEAL_REQUEST 1
#define GRANT 2
#define DECLINE_REQUEST 3
#define DECLINED 4
#define ANNOUNCED 5
#define SPENT 6
#define REFUSED 7

inline deliver(s) {
#ifdef NEVER
    assert(kind != NEVER);
#endif
    if
    :: (kind == SEAL_REQUEST) -> sealRequested(s, from, a, w)
    :: (kind == GRANT) -> sealGranted(s, from, a, w, f)
    :: (kind == DECLINE_REQUEST) -> declineRequested(s, from, a, w)
    :: (kind == DECLINED) -> declined(s, from, w)
    :: (kind == ANNOUNCED) -> learn(s, from, w)
    :: (kind == SPENT) -> spentRefused(s, from, a, w - 1)
    :: (kind == REFUSED) -> refused(s, from, w)
    fi
}

/* The record as one number. */
#define DIGEST(s) \
    (r[s].role | r[s].owner << 4 | r[s].epoch << 6 | r[s].other << 10 | r[s].heir << 14 | r[s].final << 16 | r[s].spent << 20)

/* ---- what always holds ---- */

byte i;
inline check() {
    d_step {
        i = 0; before = 0; tailFirst = 1;
        do
        :: (i < SITES) ->
            if
            :: (r[i].role == OWNING) -> before = before + 1; tailFirst = tailFirst && r[i].content == acknowledged
            :: else
            fi;
            i = i + 1
        :: else -> break
        od;
        i = 0;
        oneWriter = (before <= 1);
        assert(oneWriter);
        assert(tailFirst)
    }
}

#ifdef BUG_BEGIN_WITHOUT_TAIL
#define isCaughtUp(s) 1
#else
#define isCaughtUp(s) (memory[s].fetched >= r[s].final)
#endif

/* ---- a site ---- */

#define TAKE(k, p, x, y, z) kind = k; from = p; a = x; w = y; f = z
#define ON_PAIR(p, x, y) \
    :: (sealRequests[s].by[p] & pair(x, y)) -> TAKE(SEAL_REQUEST, p, x, y, 0) \
    :: (declineRequests[s].by[p] & pair(x, y)) -> TAKE(DECLINE_REQUEST, p, x, y, 0) \
    :: (spents[s].by[p] & pair(x, y)) -> TAKE(SPENT, p, x, y, 0) \
    :: (grants[s].by[p].final[0] & pair(x, y)) -> TAKE(GRANT, p, x, y, 0) \
    :: (grants[s].by[p].final[1] & pair(x, y)) -> TAKE(GRANT, p, x, y, 1) \
    :: (grants[s].by[p].final[2] & pair(x, y)) -> TAKE(GRANT, p, x, y, 2)
#define ON_EPOCH(p, y) \
    :: (declines[s].by[p] & (1 << y)) -> TAKE(DECLINED, p, 0, y, 0) \
    :: (announcements[s].by[p] & (1 << y)) -> TAKE(ANNOUNCED, p, 0, y, 0) \
    :: (refusals[s].by[p] & (1 << y)) -> TAKE(REFUSED, p, 0, y, 0)

proctype Site(byte s) {
    byte kind, from, a, w, f;
end:
    do
    /* A message arrives; the same once more changes nothing. */
    :: atomic {
        if
        PEERS(PAIRS, ON_PAIR)
        PEERS(EPOCHS, ON_EPOCH)
        fi;
        d_step {
            oldEpoch = known(s);
            deliver(s);
            before = DIGEST(s);
            deliver(s);
            after = DIGEST(s);
            twiceChangesNothing = (before == after);
            assert(twiceChangesNothing);
            knowledgeGrows = (oldEpoch <= known(s));
            assert(knowledgeGrows);
            kind = 0; from = 0; a = 0; w = 0; f = 0
        }
        check()
    }
    /* Wishes. */
    :: atomic {
        (wishes > 0 && (!isOwners(s) || (r[s].role >= SEALING && r[s].role <= SEALED))
            && r[s].role != ACQUIRING && r[s].role != RECEIVING && r[s].spent < HIGHEST) ->
        d_step {
            wishes = wishes - 1;
            if
            :: (r[s].role == SEALING) -> resume(s)
            :: (r[s].role == SEALED) ->
#ifdef BUG_TAKE_BACK_UNASKED
                resume(s)
#else
                r[s].role = RECLAIMING;
                declineRequests[r[s].heir].by[s] = declineRequests[r[s].heir].by[s] | pair(r[s].epoch, r[s].other)
#endif
            :: else -> acquire(s, r[s].owner, r[s].epoch)
            fi
        }
        check()
    }
    :: atomic {
        (aborts > 0 && (r[s].role == ACQUIRING || r[s].role == RECEIVING || r[s].role == RECLAIMING)) ->
        d_step {
            aborts = aborts - 1;
            if
            :: (r[s].role == RECLAIMING) -> r[s].role = SEALED
            :: else ->
                raise(s, r[s].other);
                r[s].role = DECLINING; r[s].final = 0;
                tellDeclined(s, r[s].owner, r[s].other)
            fi
        }
        check()
    }
    /* A mount, a write, an unmount. */
    :: atomic { (r[s].role == OWNING && !r[s].held && acknowledged < WRITES) -> r[s].held = 1 }
    :: atomic { (r[s].role == OWNING && r[s].held) -> r[s].held = 0 }
    :: atomic {
        (r[s].role == OWNING && r[s].held && acknowledged < WRITES) ->
        d_step { acknowledged = acknowledged + 1; r[s].content = r[s].content + 1 }
        check()
    }
#ifdef BUG_WRITE_WHILE_SEALING
    :: atomic {
        (r[s].role == SEALING && acknowledged < WRITES) ->
        d_step { acknowledged = acknowledged + 1; r[s].content = r[s].content + 1 }
        check()
    }
#endif
    /* Actions of the site itself; a crash may come between each and its result's being stored. */
    :: atomic {
        (r[s].role == SEALING && memory[s].tailFor != r[s].other) ->
        d_step { memory[s].tailFor = r[s].other; memory[s].tail = r[s].content }
    }
    :: atomic {
        (memory[s].tailFor != 0) ->
        d_step {
            if
            :: (r[s].role == SEALING && r[s].other == memory[s].tailFor) ->
                r[s].role = SEALED; r[s].final = memory[s].tail; grantSeal(s)
            :: ((r[s].role == SEALED || r[s].role == RECLAIMING) && r[s].other == memory[s].tailFor) ->
                noContradiction = (r[s].final == memory[s].tail);
                assert(noContradiction)
            :: else
            fi;
            memory[s].tailFor = 0; memory[s].tail = 0
        }
        check()
    }
    :: atomic {
        (r[s].role == RECEIVING && r[s].content < r[s].final) -> r[s].content = r[s].content + 1
    }
    :: atomic {
        (r[s].role == RECEIVING && memory[s].fetchedFor == 0) ->
        d_step { memory[s].fetchedFor = r[s].other; memory[s].fetched = r[s].content }
    }
    :: atomic {
        (memory[s].fetchedFor != 0) ->
        d_step {
            if
            :: (r[s].role == RECEIVING && r[s].other == memory[s].fetchedFor && isCaughtUp(s)) ->
                from = r[s].owner;
                begin(s, r[s].other);
                announceKnown(s, from);
                from = 0
            :: else
            fi;
            memory[s].fetchedFor = 0; memory[s].fetched = 0
        }
        check()
    }
    /* Crash and restart: the record, what was fetched and what was sent stay. */
    :: atomic {
        (memory[s].tailFor != 0 || memory[s].fetchedFor != 0) ->
        d_step { memory[s].tailFor = 0; memory[s].tail = 0; memory[s].fetchedFor = 0; memory[s].fetched = 0 }
    }
    od
}

init {
    byte site;
    atomic {
        do
        :: (site < SITES) ->
            r[site].role = FOLLOWING; r[site].epoch = 1; r[site].spent = 1; r[site].heir = site;
            site = site + 1
        :: else -> break
        od;
        r[0].role = OWNING; begun = 2;
        site = 0;
        do
        :: (site < SITES) -> run Site(site); site = site + 1
        :: else -> break
        od;
        site = 0
    }
}
