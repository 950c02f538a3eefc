// Package sock is fast mode: it connects the sockets of macvlan pods to backends of Services themselves, where the pod reaches the
// backend without its node. Programs at the socket calls of a cgroup change the address that a call names; no packet is changed, so
// there is nothing to be translated back, no source to be masqueraded, and no state of a connection that could be lost. All else is
// left as it is, and so goes by the vmac and the node.
//
// A call, connect or sendmsg with an address, is judged by the first line that fits:
//
//	socket, address                                          verdict     counted as
//	of a network namespace that is no pod's (SetPod)         leave       -
//	neither TCP nor UDP; MPTCP has a number of its own       leave       -
//	a datagram of a connected socket, to its peer, or to     to the      -
//	  the frontend that it was connected by                  peer
//	no frontend; a NodePort's needs the address of a node    leave       -
//	frontend of a port that is left to the node: Steered,    leave       node_steered
//	  with Sources, or with Drop and no backend
//	of a port without backends                               refuse      refused
//	of a port that changes faster than it can be read        leave       node_changing
//	the chosen backend is not native to the pod              leave       node_not_native
//	the chosen backend is                                    translate   translated_tcp, translated_udp
//
// Refused is ECONNREFUSED, at once. SCTP passes no such hook, and what the kernel itself connects (NFS) neither. A backend is native
// if the pod has a way to its network whose prefix has its address: a macvlan pod's of the same network, this very pod among them, or
// another node itself on the underlay.
//
// The backend is chosen among all of the port's, native or not, by the first line that fits:
//
//	the socket is UDP, not connected, and used the frontend     that backend, while the port has it, be it in Staying
//	the port has ClientIP affinity, and the pod used it lately  that backend, while the port has it; counted as affinity_hit
//	any                                                         one by chance
//
// "Left to the node, as its backend was not native" is remembered like a backend, as the node then remembers its choice. The client of
// affinity is the pod, and each use makes it last anew. What is not there any more is chosen again, and counted as reselected.
//
// Answers show the frontend instead of the backend:
//
//	recvmsg, UDP            if the socket last meant the frontend by that address, and the frontend still has the backend
//	getpeername, UDP        if the socket was connected by the frontend
//	getpeername, TCP        likewise; the socket itself remembers it
//
// What is remembered of a socket is found by its cookie, which no other socket has until the node boots, so nothing of it is ever told
// of another. A socket that calls the backend by its own address afterwards means that.
//
// A UDP socket that is connected to a backend which goes is not changed by any of this: DestroyUDP ends it, once it is not in Staying
// either. TCP stays with its backend until one of both ends.
//
// Everything is pinned in Config.PinDir/sock, maps and links by the names of maps.h, sticky.h and sock.c. The process may end; what it
// attached goes on, and the next Attach updates it in place.
package sock
